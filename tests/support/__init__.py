"""What tests share: outside things that they start, stop and break."""
