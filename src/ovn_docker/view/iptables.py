"""Docker's rules for the way out of a host and for published ports, as iptables-save(8) prints them. Pure.

Docker 29 can make them with nft(8) instead (``--firewall-backend=nftables``); those are not read.
"""

import shlex
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from ovn_docker.model import IpAddress


def masquerade(saved: str, source: IpAddress, out: str) -> str:
    """The rule that gives packets from *source* that leave by *out* an address of the host; else empty."""
    for rule, words in _rules(saved, "POSTROUTING"):
        if _option(words, "-j") in ("MASQUERADE", "SNAT") and _is_from(words, source) and _leaves(words, out):
            return rule
    return ""


def published(saved: str, protocol: str, port: int, at: IpAddress | None) -> tuple[str, str, int]:
    """The rule that sends a port of the host, at its address *at*, to a container, and its address and port.

    Empty and 0 without one.
    """
    for rule, words in _rules(saved, "DOCKER"):
        target = _option(words, "--to-destination")
        matches = _option(words, "-p") == protocol and _option(words, "--dport") == str(port)
        if target and matches and (at is None or _is_for(words, at)):
            address, _, number = target.rpartition(":")
            if number.isascii() and number.isdigit():
                return rule, address.strip("[]"), int(number)
    return "", "", 0


def _rules(saved: str, chain: str) -> Iterator[tuple[str, list[str]]]:
    for line in saved.splitlines():
        if line.startswith(f"-A {chain} "):
            try:
                yield line, shlex.split(line)
            except ValueError:  # a comment with one quotation mark
                continue


def _option(words: list[str], name: str) -> str:
    """What stands behind an option, unless ``!`` does before it."""
    at = next((n for n, word in enumerate(words) if word == name and words[n - 1] != "!"), None)
    return words[at + 1] if at is not None and at + 1 < len(words) else ""


def _is_from(words: list[str], source: IpAddress) -> bool:
    return _has(_option(words, "-s"), source)


def _is_for(words: list[str], address: IpAddress) -> bool:
    return _has(_option(words, "-d"), address)


def _has(subnet: str, address: IpAddress) -> bool:
    try:
        return not subnet or ip_address(address) in ip_network(subnet, strict=False)
    except ValueError:
        return False


def _leaves(words: list[str], out: str) -> bool:
    if _option(words, "-o"):
        return _option(words, "-o") == out
    return not ("-o" in words and words[words.index("-o") + 1] == out)
