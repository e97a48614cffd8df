"""What people look at outside the Django admin."""
