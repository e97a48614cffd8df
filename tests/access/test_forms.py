"""The login page: what it says, and what it doesn't tell."""

from __future__ import annotations

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.test import Client

from registry_admin.access.models import LoginCount
from tests.parts import refusing_port

pytestmark = pytest.mark.django_db

LOGIN = "/admin/login/"
WRONG = "Please enter the correct username and password"
LOCKED = "Too many logins have failed, so this one was not tried. Try again in 15 minutes"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Passwords that were hashed since."""
    passwords: list[str] = []
    encode = MD5PasswordHasher.encode

    def recorded(hasher, password, salt):
        passwords.append(password)
        return encode(hasher, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", recorded)
    return passwords


def log_in(name: str, password: str, *, client: Client | None = None):
    return (client or Client()).post(LOGIN, {"username": name, "password": password, "next": "/admin/"})


def test_login_is_locked_after_five_failures_and_says_for_how_long(make_user, hashed):
    make_user(name="ada")
    hashed.clear()
    for _ in range(5):
        assert WRONG in log_in("ada", "guess").content.decode()
    locked = log_in("ada", "secret")
    assert (locked.status_code, len(hashed)) == (200, 5)
    assert LOCKED in locked.content.decode()
    assert "sessionid" not in locked.cookies


def test_login_that_succeeds_begins_anew(make_user):
    make_user(name="ada")
    for _ in range(3):
        for _ in range(4):
            log_in("ada", "guess")
        assert log_in("ada", "secret").status_code == 302
    assert log_in("ada", "guess").status_code == 200


def test_login_with_unknown_name_is_answered_as_with_wrong_password(make_user, hashed):
    make_user(name="known")
    make_user(name="guest", staff=False)
    sleeper = make_user(name="sleeper")
    User.objects.filter(pk=sleeper.pk).update(is_active=False)
    User.objects.create_user("federated", is_staff=True)  # has no usable password
    answers, hashes = set(), []
    for name, password in [
        ("unknown", "secret"), ("known", "guess"), ("guest", "secret"), ("sleeper", "secret"), ("federated", "x"),
    ]:  # fmt: skip
        client = Client()
        client.get(LOGIN)
        hashed.clear()
        response = log_in(name, password, client=client)
        html = response.content.decode().replace(name, "NAME").replace(client.cookies["csrftoken"].value, "TOKEN")
        answers.add((response.status_code, html.partition("csrfmiddlewaretoken")[0], WRONG in html))
        hashes.append(len(hashed))
    assert len(answers) == 1
    assert next(iter(answers))[2]
    assert hashes == [1] * 5


@pytest.mark.parametrize("name", ["", "   ", "a" * 1000, "a\x00b", "\N{SNOWMAN}"])
def test_login_with_odd_name_is_refused_without_an_error(name):
    for _ in range(7):
        assert log_in(name, "secret").status_code == 200
    assert LoginCount.objects.exclude(name="").count() <= 2


def test_login_count_holds_no_name(make_user):
    log_in("my secret password", "x")
    assert "my" not in str(list(LoginCount.objects.values_list("name", "address")))
    assert LoginCount.objects.count() == 3


@pytest.mark.parametrize("password", ["short", "password1234", "123456789012", "elevenchars"])
def test_password_that_is_easily_guessed_is_refused(password):
    with pytest.raises(ValidationError):
        validate_password(password)
    validate_password("correct horse battery")


@pytest.mark.django_db(transaction=True)
def test_login_limit_holds_while_redis_is_away(make_user, settings):
    make_user(name="ada")
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{refusing_port()}/0",
        }
    }
    assert log_in("ada", "secret").status_code == 302
    for _ in range(5):
        log_in("ada", "guess")
    assert LOCKED in log_in("ada", "secret").content.decode()


def test_old_password_is_guessed_five_times_at_most(make_user, client_of, hashed):
    client = client_of(make_user(name="ada"))
    # pragma: allowlist nextline secret - only for tests
    change = {"new_password1": "correct horse battery", "new_password2": "correct horse battery"}
    hashed.clear()
    for _ in range(5):
        page = client.post("/admin/password_change/", {"old_password": "guess"} | change).content.decode()
        assert "Your old password was entered incorrectly" in page
    page = client.post("/admin/password_change/", {"old_password": "secret"} | change).content.decode()
    assert "Too many logins have failed" in page
    assert (hashed.count("guess"), hashed.count("secret")) == (5, 0)


def test_own_password_is_changed(make_user, client_of):
    client = client_of(make_user(name="ada"))
    # pragma: allowlist nextline secret - only for tests
    change = {"new_password1": "correct horse battery", "new_password2": "correct horse battery"}
    answer = client.post("/admin/password_change/", {"old_password": "secret"} | change)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/password_change/done/")
    assert log_in("ada", "correct horse battery").status_code == 302
