"""Small modules for tests that run them under each server: `/health`, `/`, and `/slow`, which takes a second."""
