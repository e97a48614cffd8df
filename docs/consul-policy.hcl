# What Registry Admin's token may do, and nothing else. Without ACLs no token is needed.
#   consul acl policy create -name registry-admin -rules @docs/consul-policy.hcl
#   consul acl token create -policy-name registry-admin

# Register, deregister and read the services that you declare. Name your own prefixes to narrow it.
service_prefix "" {
  policy = "write"
}

# See on which node an instance is, and its health.
node_prefix "" {
  policy = "read"
}

# Ask the agent for its own name and ID.
agent_prefix "" {
  policy = "read"
}
