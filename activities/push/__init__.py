"""Push: messages, devices, providers."""
