"""The inventory: what should be, in the database, beside what was seen in Consul."""
