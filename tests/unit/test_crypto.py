"""Encrypted data is opened by the configured keys and by no others."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from common.security.encryption import DecryptionFailed, EncryptionSettings, SecretBox, new_key

OLD, NEW = SecretStr(new_key()), SecretStr(new_key())


def test_a_new_key_in_front_opens_what_the_old_one_sealed() -> None:
    sealed = SecretBox([OLD]).encrypt("acct_1")
    assert "acct_1" not in sealed
    both = SecretBox([NEW, OLD])
    assert both.decrypt(sealed) == "acct_1"
    renewed = both.reencrypt(sealed.encode())
    assert renewed is not None
    assert SecretBox([NEW]).open_bytes(renewed) == b"acct_1"
    assert both.reencrypt(renewed) is None


def test_a_key_that_was_taken_out_too_early_is_named() -> None:
    sealed = SecretBox([OLD]).encrypt("acct_1")
    with pytest.raises(DecryptionFailed, match="rotate-keys"):
        SecretBox([NEW]).decrypt(sealed)


def test_a_changed_seal_is_not_opened() -> None:
    sealed = SecretBox([OLD]).encrypt("acct_1")
    middle = len(sealed) // 2
    other = "A" if sealed[middle] != "A" else "B"
    with pytest.raises(DecryptionFailed):
        SecretBox([OLD]).decrypt(sealed[:middle] + other + sealed[middle + 1 :])


def test_settings_take_several_keys_and_refuse_what_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{NEW.get_secret_value()}, {OLD.get_secret_value()}")
    keys = EncryptionSettings().encryption_keys
    assert [each.get_secret_value() for each in keys] == [
        NEW.get_secret_value(),
        OLD.get_secret_value(),
    ]
    for wrong in ("short", ""):
        monkeypatch.setenv("ENCRYPTION_KEYS", wrong)
        with pytest.raises(ValidationError):
            EncryptionSettings()
