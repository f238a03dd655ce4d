"""Find Docker's rules for masquerading and published ports in the output of iptables-save(8). Pure.

Rules that Docker 29 makes with nft(8) (``--firewall-backend=nftables``) are not read.
"""

import shlex
from collections.abc import Iterator
from ipaddress import ip_network

from ovn_docker.model import IpAddress


def masquerade(saved: str, source: IpAddress, target: IpAddress, out: str) -> str:
    """Return the rule that gives packets from *source* to *target* by the link *out* an address of the host.

    Empty without such a rule; rules for a single protocol are ignored.
    """
    for rule, words in _rules(saved, "POSTROUTING"):
        applies = _is(words, "-s", source) and _is(words, "-d", target) and _leaves(words, out)
        if applies and "-p" not in words and _option(words, "-j") in ("MASQUERADE", "SNAT"):
            return rule
    return ""


def published(saved: str, protocol: str, port: int, at: IpAddress | None) -> tuple[str, str, int]:
    """Return the rule that redirects a port of the host, at its address *at*, and the new address and port.

    Empty and 0 without such a rule.
    """
    for rule, words in _rules(saved, "DOCKER"):
        target = _option(words, "--to-destination")
        matches = _option(words, "-p") == protocol and _option(words, "--dport") == str(port)
        if target and matches and (at is None or _is(words, "-d", at)):
            address, _, number = target.rpartition(":")
            if number.isascii() and number.isdigit():
                return rule, address.strip("[]"), int(number)
    return "", "", 0


def _rules(saved: str, chain: str) -> Iterator[tuple[str, list[str]]]:
    for line in saved.splitlines():
        if line.startswith(f"-A {chain} "):
            try:
                yield line, shlex.split(line)
            except ValueError:  # a comment with a single quotation mark
                continue


def _option(words: list[str], name: str) -> str:
    """Return the word after an option; empty without that option."""
    at = words.index(name) if name in words else len(words)
    return words[at + 1] if at + 1 < len(words) else ""


def _negated(words: list[str], name: str) -> bool:
    return name in words and words[words.index(name) - 1] == "!"


def _is(words: list[str], name: str, address: IpAddress) -> bool:
    """True if a rule is for an address, by its option -s or -d."""
    if not (subnet := _option(words, name)):
        return True
    try:
        return (address in ip_network(subnet, strict=False)) is not _negated(words, name)
    except ValueError:
        return False


def _leaves(words: list[str], out: str) -> bool:
    link = _option(words, "-o")
    return not link or (link == out) is not _negated(words, "-o")
