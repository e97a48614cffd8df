"""Pages for people, outside the Django admin."""
