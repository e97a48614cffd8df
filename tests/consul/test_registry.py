from tests.parts import wait_until


def test_smoke(registry, http_service):
    service = http_service()
    service_id = registry.register_service("backend-api", service.host, service.port, health_check_interval="1s")
    wait_until(lambda: registry.discover_service("backend-api"), what="passing")
    assert registry.get_service_url("backend-api") == service.url
    registry.deregister_service(service_id)


def test_restart(make_agent, flaky_proxy):
    agent = make_agent(management_token="11111111-1111-1111-1111-111111111111")
    token = agent.make_token('service_prefix "" { policy = "write" }')
    agent.stop()
    agent.start()
