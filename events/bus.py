"""The one wrapper over nats-py (signatures first; the bodies follow)."""
