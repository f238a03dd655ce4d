#!/bin/sh -e
# Copies into the file system $1 how this machine reaches pip, and whom it trusts.
for path in /etc/pip.conf /etc/xdg/pip /root/.config/pip /root/.pip /usr/local/share/ca-certificates \
    /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$path" ]; then
        rm -rf "$1$path"
        mkdir -p "$1${path%/*}"
        cp -RL "$path" "$1$path"
    fi
done
env | grep -iE '^(pip_|ssl_cert_|requests_ca_|(https?|no|all)_proxy=)' >>"$1/etc/environment" || true
