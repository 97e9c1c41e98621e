"""Ready-made connections to what runs a service."""
