"""Who may call, over what, and what is kept from whom."""
