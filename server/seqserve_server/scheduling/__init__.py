"""What runs next, and how far."""
