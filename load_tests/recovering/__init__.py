"""The trials of `load_tests.recovery`: each hurts a world of real processes once and says how long what took."""
