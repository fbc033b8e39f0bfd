#!/bin/bash
# Names through user-mode address translation: the guest asks the name server that DHCP told it of, and libslirp the
# host's, which is one of ours in namespaces of its own.
if [ -z "${IN_NAMESPACE:-}" ]; then
    unshare -rnm true 2>/dev/null || { echo "skipped: no user namespaces"; exit 77; }
    IN_NAMESPACE=1 exec unshare -rnm "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v python3 >/dev/null || skip "python3 is not installed"
ip link set lo up || skip "no loopback interface"
echo 'nameserver 127.0.0.1' >"$WORK/resolv.conf"
mount --bind "$WORK/resolv.conf" "$(realpath /etc/resolv.conf)" || skip "/etc/resolv.conf cannot be replaced"

"$here/dns-peer" box.trapeze.test 192.0.2.33 >"$WORK/questions" &
peer=$!
trap 'kill $peer; umount "$(realpath /etc/resolv.conf)"; rm -rf "$WORK"' EXIT
until grep -qs '^ready' "$WORK/questions"; do
    kill -0 $peer 2>/dev/null || fail "dns-peer does not start"
    sleep 0.1
done

# Over TCP by hand: a question of 17 + 20 bytes behind its length.
initrd 'ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -n -q -s /udhcpc >/tmp/dhcp 2>&1 || { cat /tmp/dhcp; exit 1; }
grep ^dhcp: /tmp/dhcp
server=$(sed -n "s/.*dns //p" /tmp/dhcp)
nslookup -type=a box.trapeze.test $server | sed "s/^/known: /"
nslookup -type=a no.trapeze.test $server 2>&1 | sed "s/^/unknown: /"
{ printf "\0\042\022\064\001\0\0\001\0\0\0\0\0\0\003box\007trapeze\004test\0\0\001\0\001"; sleep 2; } |
    nc -w 5 $server 53 | tail -c 4 | od -An -tu1 | sed "s/^ */tcp: /"
exit 0' --file "$here/udhcpc-script:/udhcpc" --module virtio_pci --module virtio_net
for options in user user,net=10.7.0.0/24,dns=10.7.0.77; do
    : >"$WORK/questions"
    boot 100 0 --memory 256M --net "$options"
    [ "$options" = user ] && expect '^dhcp: .* dns 10.0.2.3' || expect '^dhcp: .* dns 10.7.0.77'
    expect '^known: Address: 192.0.2.33'
    expect "^unknown: .*can't find no.trapeze.test: NXDOMAIN"
    expect '^tcp: 192 +0 +2 +33'
    for question in 'udp: box.trapeze.test 1' 'udp: no.trapeze.test 1' 'tcp: box.trapeze.test 1'; do
        grep -qa "$question" "$WORK/questions" || { cat "$WORK/questions"; fail "the resolver was not asked '$question'"; }
    done
    expect_clean_log
done
