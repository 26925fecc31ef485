#!/bin/sh
# collect.sh ROOT PROGRAM…: a root file system that holds just these programs and what they load, from this machine.
# It is for images without a distribution: the agent's, the demonstration's, and those of the test bed.
set -eu
root=$1
shift

fail() {
    echo "collect: $*" >&2
    exit 1
}

copy() { # FILE: to the same path below the root
    mkdir -p "$root$(dirname "$1")"
    cp -L "$1" "$root$1"
}

# Prints the libraries of a program, and its loader. A static program has none.
libraries() { # PROGRAM
    if ! list=$(ldd "$1" 2>&1); then
        # glibc's and musl's words for a static program.
        case $list in *"not a dynamic executable"* | *"Not a valid dynamic program"*) return ;; esac
        fail "ldd cannot tell what $1 loads: $list"
    fi
    # musl's and glibc's words for a library that is not there.
    case $list in *"not found"* | *"Error loading"*) fail "$1 does not find what it loads: $list" ;; esac
    printf '%s\n' "$list" | grep -o '/[^ ]*' || true
}

command -v ldd >/dev/null || fail "ldd is missing (Debian: libc-bin, Fedora: glibc-common): it tells what a program loads"
# What this shell was told to load besides is not the programs' own.
unset LD_LIBRARY_PATH LD_PRELOAD

mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/srv" "$root/var"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# With it the loader finds each library where it finds it here, in whatever folder.
if [ -e /etc/ld.so.cache ]; then copy /etc/ld.so.cache; fi
for program; do
    path=$(command -v "$program") || fail "$program is missing"
    # A script needs its interpreter, and whatever that one calls: musl's getent is one.
    [ "$(head -c 4 "$path" | tail -c 3)" = ELF ] || fail "$path is no binary, and an image without a shell cannot run it"
    cp -L "$path" "$root/bin/"
    needed=$(libraries "$path")
    for library in $needed; do
        copy "$library"
        case $library in */libc.so.*)
            # Before glibc 2.34 names are looked up by libraries that the C library loads by itself, unknown to ldd.
            for more in "${library%/*}"/libnss_files.so.2 "${library%/*}"/libnss_dns.so.2 "${library%/*}"/libresolv.so.2; do
                if [ -e "$more" ]; then copy "$more"; fi
            done
            ;;
        esac
    done
    if [ "$program" = busybox ]; then
        for applet in $("$path" --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    fi
done
