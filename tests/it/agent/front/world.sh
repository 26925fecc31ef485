# The world beside our zone, for the resolvers that validate: a signed root on 127.0.0.1 that knows one name, and
# denies `internal` with proof, as the real root does. It leaves in /world the trust anchor, as each program wants it,
# the root's hints, and what it was asked.
set -eu
mkdir -p /world
cd /world
# A public address: what protects against DNS rebinding lets no other pass. It is asked for, and never asked.
cat >root.zone <<'ZONE'
$TTL 60
. IN SOA ns.world. admin.world. 1 60 60 3600 60
. IN NS ns.world.
ns.world. IN A 127.0.0.1
signed.world. IN A 9.9.9.9
ZONE
dnssec-keygen -q -a ECDSAP256SHA256 -f KSK . >/dev/null
dnssec-keygen -q -a ECDSAP256SHA256 . >/dev/null
dnssec-signzone -q -S -o . -f root.signed root.zone >/dev/null
printf '. 60 IN NS ns.world.\nns.world. 60 IN A 127.0.0.1\n' >root.hints
# unbound and Knot Resolver take the key, the others its digest: . IN DS TAG ALGORITHM KIND DIGEST, in two pieces.
grep -h 'DNSKEY 257 ' K.*.key >anchor.key
read -r _ _ _ tag algorithm kind digest <dsset-.
digest=$(echo "$digest" | tr -d ' ')
echo "trust-anchors { \".\" static-ds $tag $algorithm $kind \"$digest\"; };" >anchor.bind
echo "trust-anchor=.,$tag,$algorithm,$kind,$digest" >anchor.dnsmasq
echo ". IN DS $tag $algorithm $kind $digest" >anchor.ds
echo "addTA('.', \"$tag $algorithm $kind $digest\")" >anchor.lua
cat >named.conf <<'CONF'
options {
    directory "/world";
    listen-on { 127.0.0.1; };
    listen-on-v6 { none; };
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
};
controls { };
logging { channel asked { file "/world/asked"; }; category queries { asked; }; };
zone "." { type primary; file "root.signed"; };
CONF
# It returns when it answers.
named -c /world/named.conf
