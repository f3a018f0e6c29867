"""The webhook's certificate: renewed while it is in use, and told when it ran out."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from leaderlease.controller.certificates import Certificate
from leaderlease.errors import ConfigError


def write_certificate(home: Path, authority: trustme.CA, **options: Any) -> tuple[Path, Path]:
    """Write a certificate and its key, as a renewed Secret would come."""
    issued = authority.issue_cert("127.0.0.1", **options)
    cert, key = home / "tls.crt", home / "tls.key"
    for path, content in ((cert, issued.cert_chain_pems[0]), (key, issued.private_key_pem)):
        fresh = path.with_suffix(".new")
        content.write_to_path(fresh)
        fresh.replace(path)
    return cert, key


def test_renewed_certificate_is_taken(tmp_path: Path) -> None:
    """Once for each state of the files; files that do not fit together leave the old one in use."""
    authority = trustme.CA()
    certificate = Certificate(*write_certificate(tmp_path, authority))
    assert certificate.look() is False
    write_certificate(tmp_path, authority)
    assert (certificate.look(), certificate.look(), certificate.reloads) == (True, False, 1)
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(tmp_path / "tls.key")
    assert (certificate.look(), certificate.reloads) == (False, 1)
    write_certificate(tmp_path, authority)
    assert certificate.look() is True


def test_certificate_that_ran_out_is_told(tmp_path: Path) -> None:
    """The sentence names file, time and the way out."""
    ended = datetime(2030, 1, 1, tzinfo=UTC)
    certificate = Certificate(*write_certificate(tmp_path, trustme.CA(), not_after=ended))
    assert certificate.check(ended.timestamp() - 1) == "ok"
    text = certificate.check(ended.timestamp())
    assert "tls.crt ran out at 2030-01-01 00:00 UTC" in text
    assert "renew its Secret" in text
    assert certificate.ends_at_s == ended.timestamp() > time.time()


def test_certificate_is_refused_by_its_own_flag(tmp_path: Path) -> None:
    """The sentence speaks of the webhook's flags."""
    with pytest.raises(ConfigError, match=f"--webhook-cert {os.fspath(tmp_path)}/no.crt cannot be read"):
        Certificate(tmp_path / "no.crt", tmp_path / "no.key")
