"""Making Consul match the declarations. Knows Consul and plain values, but neither Django nor a database."""
