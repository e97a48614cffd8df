"""Registry Admin: desired services in Postgres, a Consul that matches them, and calls between modules by name."""

__version__ = "0.1.0"
