from __future__ import annotations

import pytest

from ingest.fetch.guard import AddressGuard, AddressRefused, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::",
        "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "not-an-address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_public_internet_are_refused(address: str):
    assert not is_public(address)
    with pytest.raises(AddressRefused, match="PORTAL_ALLOWED_UPSTREAMS"):
        AddressGuard().check(address, 80)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_pass(address: str):
    assert is_public(address)
    AddressGuard().check(address, 443)


@pytest.mark.parametrize(
    ("entry", "is_allowed"),
    [
        ("10.0.0.0/8", True),
        ("10.1.2.3", True),
        ("10.1.2.3:8080", True),
        ("10.1.2.3:80", False),
        ("api.internal", True),
        ("api.internal:8080", True),
        ("api.internal:81", False),
        ("other.internal", False),
        ("internal", False),
        ("", False),
    ],
)
def test_the_allow_list_opens_hosts_ports_and_networks(entry: str, is_allowed: bool):
    guard = AddressGuard(allowed=(entry,))
    if is_allowed:
        guard.check("10.1.2.3", 8080, host="api.internal")
    else:
        with pytest.raises(AddressRefused):
            guard.check("10.1.2.3", 8080, host="api.internal")
