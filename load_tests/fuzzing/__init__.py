"""What `load_tests.fuzz` throws at whom: parsers of bytes in this process, and running services from outside."""
