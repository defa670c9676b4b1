"""What the docs claim about speed, measured side by side."""
