"""A campaign of faults drawn from a seed, and a judge that shares no code with the product."""
