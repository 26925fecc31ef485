#!/bin/sh
# collect.sh ROOT PROGRAM…: a root file system that holds just these programs and the libraries they load.
set -eu
root=$1
shift
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/srv" "$root/var" "$root/lib64"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
for program; do
    path=$(command -v "$program")
    cp -L "$path" "$root/bin/"
    # A static program has no libraries: ldd then fails, and there is nothing to copy.
    for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true); do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    if [ "$program" = busybox ]; then
        for applet in $("$path" --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    fi
done
