"""Signing in by page and by token, and being locked out."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.urls import reverse
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from portal.accounts import lockout
from portal.accounts.models import User
from tests.portal.conftest import PASSWORD
from tests.portal.test_errors import assert_shape

pytestmark = pytest.mark.django_db


def sign_in(api, email="reader@example.org", password=PASSWORD, **headers):
    return api.post("/api/token/", {"email": email, "password": password}, headers=headers)


class TestTokens:
    def test_e_mail_and_password_give_two_tokens(self, api, user):
        response = sign_in(api)

        assert response.status_code == 200
        assert set(response.json()) == {"access", "refresh"}

    def test_the_case_of_the_e_mail_does_not_matter(self, api, user):
        assert sign_in(api, email="Reader@Example.ORG").status_code == 200

    def test_an_access_token_opens_the_api(self, api, user):
        access = sign_in(api).json()["access"]

        assert api.get("/api/runs/").status_code == 401
        response = api.get("/api/runs/", headers={"Authorization": f"Bearer {access}"})
        assert response.status_code == 200

    def test_a_session_opens_the_api(self, browser):
        assert browser.get("/api/runs/").status_code == 200

    @pytest.mark.parametrize("header", ["Bearer", "Bearer nonsense", "Bearer a b", "Bearer é"])
    def test_what_is_no_token_is_401_in_the_shape(self, api, header):
        error = assert_shape(api.get("/api/runs/", headers={"Authorization": header}), 401)
        assert error["code"]

    def test_an_old_access_token_is_refused(self, api, user):
        token = AccessToken.for_user(user)
        token.set_exp(lifetime=-timedelta(seconds=1))

        response = api.get("/api/runs/", headers={"Authorization": f"Bearer {token}"})
        assert_shape(response, 401, "token_not_valid")

    def test_tokens_live_as_long_as_promised(self, user):
        assert AccessToken.lifetime == timedelta(minutes=60)
        assert RefreshToken.lifetime == timedelta(days=14)

    def test_a_refresh_token_gives_an_access_token_again_and_again(self, api, user):
        refresh = sign_in(api).json()["refresh"]

        for _ in range(2):
            response = api.post("/api/token/refresh/", {"refresh": refresh})
            assert response.status_code == 200
            assert response.json()["access"]

    def test_a_revoked_refresh_token_is_good_for_nothing(self, api, user):
        refresh = sign_in(api).json()["refresh"]

        assert api.post("/api/token/revoke/", {"refresh": refresh}).status_code == 200
        response = api.post("/api/token/refresh/", {"refresh": refresh})
        assert_shape(response, 401, "token_not_valid")

    def test_the_token_of_an_account_that_is_gone_is_refused(self, api, user):
        tokens = sign_in(api).json()
        user.delete()

        response = api.post("/api/token/refresh/", {"refresh": tokens["refresh"]})
        assert_shape(response, 401)
        headers = {"Authorization": f"Bearer {tokens['access']}"}
        assert_shape(api.get("/api/runs/", headers=headers), 401)

    def test_a_new_password_ends_the_tokens_of_the_old_one(self, api, user):
        access = sign_in(api).json()["access"]
        user.set_password("another long password")
        user.save()

        response = api.get("/api/runs/", headers={"Authorization": f"Bearer {access}"})
        assert_shape(response, 401)

    def test_wrong_credentials_do_not_tell_whether_the_account_exists(self, api, user):
        wrong = assert_shape(sign_in(api, password="wrong"), 401, "no_active_account")
        unknown = assert_shape(sign_in(api, email="nobody@example.org"), 401)
        assert wrong == unknown

    def test_an_inactive_account_does_not_get_in(self, api, user):
        User.objects.update(is_active=False)

        assert_shape(sign_in(api), 401)

    def test_missing_fields_are_named(self, api):
        error = assert_shape(api.post("/api/token/", {}), 400, "invalid")
        assert set(error["fields"]) == {"email", "password"}

    @pytest.mark.parametrize(
        "value", [None, 7, [], {}, "", "nul\0l", "x" * 5000, "\ud800"], ids=lambda v: ascii(v)[:12]
    )
    def test_odd_values_are_refused_in_the_shape(self, api, value):
        body = json.dumps({"email": value, "password": value}).encode()
        response = api.generic("POST", "/api/token/", body, content_type="application/json")
        assert response.status_code in (400, 401)
        assert_shape(response, response.status_code)

    def test_a_password_is_taken_with_its_spaces(self, api, db):
        User.objects.create_user("spaces@example.org", "  spaces are mine  ")

        assert sign_in(api, "spaces@example.org", "  spaces are mine  ").status_code == 200
        assert sign_in(api, "spaces@example.org", "spaces are mine").status_code == 401


class TestLockout:
    def fail(self, api, times, **headers):
        for _ in range(times):
            assert sign_in(api, password="wrong", **headers).status_code == 401

    def test_too_many_wrong_passwords_lock_the_account_and_say_for_how_long(
        self, api, user, settings
    ):
        self.fail(api, settings.LOCKOUT_ATTEMPTS)

        response = sign_in(api)
        assert_shape(response, 429, "locked_out")
        assert 0 < int(response["Retry-After"]) <= settings.LOCKOUT_SECONDS

    def test_another_account_is_not_locked(self, api, user, staff, settings):
        self.fail(api, settings.LOCKOUT_ATTEMPTS)

        assert sign_in(api, staff.email).status_code == 200

    def test_another_address_is_not_locked(self, api, user, settings):
        settings.TRUSTED_PROXIES = 1
        self.fail(api, settings.LOCKOUT_ATTEMPTS, **{"X-Forwarded-For": "198.51.100.7"})

        assert sign_in(api, **{"X-Forwarded-For": "198.51.100.7"}).status_code == 429
        assert sign_in(api, **{"X-Forwarded-For": "198.51.100.8"}).status_code == 200

    def test_an_address_cannot_be_made_up_to_get_around_it(self, api, user, settings):
        for number in range(settings.LOCKOUT_ATTEMPTS):
            self.fail(api, 1, **{"X-Forwarded-For": f"198.51.100.{number}"})

        assert sign_in(api, **{"X-Forwarded-For": "198.51.100.99"}).status_code == 429

    def test_behind_a_proxy_only_what_the_proxy_says_counts(self, api, user, settings):
        settings.TRUSTED_PROXIES = 1
        for number in range(settings.LOCKOUT_ATTEMPTS):
            self.fail(api, 1, **{"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.5"})

        assert sign_in(api, **{"X-Forwarded-For": "192.0.2.1, 203.0.113.5"}).status_code == 429

    def test_an_account_that_does_not_exist_is_locked_like_any_other(self, api, settings):
        for _ in range(settings.LOCKOUT_ATTEMPTS):
            assert sign_in(api, "nobody@example.org").status_code == 401

        assert sign_in(api, "NOBODY@example.org").status_code == 429

    def test_spellings_that_a_database_takes_for_one_account_share_a_lock(self, api, settings):
        """PostgreSQL compares by UPPER(), and ı becomes I there as i does."""
        for number in range(settings.LOCKOUT_ATTEMPTS):
            spelling = "".join("ı" if number >> at & 1 else "i" for at in range(3))
            assert sign_in(api, f"{spelling}@example.org").status_code == 401

        assert sign_in(api, "III@example.org").status_code == 429

    def test_the_right_password_forgets_the_wrong_ones(self, api, user, settings):
        for _ in range(3):
            self.fail(api, settings.LOCKOUT_ATTEMPTS - 1)
            assert sign_in(api).status_code == 200

    def test_the_lock_ends(self, api, user, settings):
        self.fail(api, settings.LOCKOUT_ATTEMPTS)
        refused = sign_in(api)
        assert refused.status_code == 429

        lock = f"{lockout._key(refused.wsgi_request, user.email)}:locked"
        assert 0 < int(refused["Retry-After"]) <= settings.LOCKOUT_SECONDS
        cache.delete(lock)
        assert sign_in(api).status_code == 200

    @pytest.mark.parametrize("page", ["/accounts/login/", "/admin/login/"])
    def test_the_forms_are_locked_with_the_tokens(self, api, visitor, staff, settings, page):
        for _ in range(settings.LOCKOUT_ATTEMPTS):
            assert sign_in(api, staff.email, "wrong").status_code == 401

        response = visitor.post(page, {"username": staff.email, "password": PASSWORD})
        assert response.status_code == 429
        assert int(response["Retry-After"]) > 0
        assert response["X-Request-ID"] in response.content.decode()
        assert "Too many wrong passwords for this account" in response.content.decode()


class TestPages:
    def test_signing_in_and_out_by_the_form(self, visitor, user):
        response = visitor.post(
            "/accounts/login/", {"username": user.email, "password": PASSWORD, "next": "/api/docs/"}
        )
        assert response.status_code == 302
        assert response["Location"] == "/api/docs/"
        assert user.email in visitor.get("/").content.decode()

        assert visitor.post("/accounts/logout/").status_code == 200
        assert user.email not in visitor.get("/").content.decode()

    def test_a_login_does_not_lead_to_another_site(self, visitor, user):
        response = visitor.post(
            "/accounts/login/",
            {"username": user.email, "password": PASSWORD, "next": "//evil.example/"},
        )
        assert response["Location"] == "/"

    @pytest.mark.parametrize(
        "name", ["login", "password_reset", "password_reset_done", "password_reset_complete"]
    )
    def test_the_pages_of_strangers_are_there(self, visitor, name):
        response = visitor.get(reverse(name))
        assert response.status_code == 200
        assert '<main id="content"' in response.content.decode()

    @pytest.mark.parametrize("name", ["password_change", "password_change_done"])
    def test_the_pages_of_users_are_there(self, browser, visitor, name):
        assert browser.get(reverse(name)).status_code == 200
        assert visitor.get(reverse(name)).status_code == 302

    def test_a_forgotten_password_can_be_replaced_by_mail(self, visitor, user):
        response = visitor.post(reverse("password_reset"), {"email": user.email})
        assert response.status_code == 302
        [message] = mail.outbox
        assert message.subject == "Choose a new password for Gleaner"
        link = re.search(r"http://testserver(/accounts/reset/\S+)", str(message.body))
        assert link

        form = visitor.get(link[1], follow=True)
        new = {"new_password1": "brand new words 7", "new_password2": "brand new words 7"}
        visitor.post(form.request["PATH_INFO"], new)
        user.refresh_from_db()
        assert user.check_password("brand new words 7")
        assert b"used already" in visitor.get(link[1], follow=True).content

    def test_an_unknown_address_gets_the_same_answer_and_no_mail(self, visitor):
        response = visitor.post(reverse("password_reset"), {"email": "nobody@example.org"})
        assert response.status_code == 302
        assert mail.outbox == []


class TestUsers:
    def test_createsuperuser_takes_everything_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("DJANGO_SUPERUSER_EMAIL", "root@example.org")
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)

        call_command("createsuperuser", "--noinput", stdout=StringIO())

        root = User.objects.get()
        assert (root.email, root.is_staff, root.is_superuser) == ("root@example.org", True, True)
        assert root.check_password(PASSWORD)

    def test_staff_can_add_a_user_in_the_admin(self, client, staff):
        client.force_login(staff)
        response = client.post(
            "/admin/accounts/user/add/",
            {
                "email": "new@EXAMPLE.org",
                "usable_password": "true",
                "password1": "brand new words 7",
                "password2": "brand new words 7",
            },
        )
        assert response.status_code == 302
        assert User.objects.get(email="new@example.org").check_password("brand new words 7")

    def test_one_address_is_one_account_whatever_its_case(self, client, staff, user):
        client.force_login(staff)
        response = client.post(
            "/admin/accounts/user/add/",
            {
                "email": user.email.upper(),
                "usable_password": "true",
                "password1": "brand new words 7",
                "password2": "brand new words 7",
            },
        )
        assert response.status_code == 200
        assert User.objects.count() == 2

    @pytest.mark.parametrize("page", ["", "add/", "{pk}/change/", "{pk}/password/"])
    def test_the_pages_of_the_admin_work(self, client, staff, page):
        client.force_login(staff)
        address = f"/admin/accounts/user/{page.format(pk=staff.pk)}"

        assert client.get(address).status_code == 200
