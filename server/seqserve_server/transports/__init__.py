"""What brings calls and takes answers back."""
