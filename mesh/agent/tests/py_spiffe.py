"""The Workload API as py-spiffe sees it: usage: py_spiffe.py SOCKET EXPECTED_ID"""

import sys
import threading

from spiffe import TrustDomain, WorkloadApiClient, X509Source

socket, expected = sys.argv[1:]
domain = TrustDomain("ringwall.local")
done = []

with WorkloadApiClient(socket) as client:
    context = client.fetch_x509_context(timeout=20)
    svid = context.default_svid
    assert str(svid.spiffe_id) == expected, svid.spiffe_id
    assert len(svid.cert_chain) == 2, svid.cert_chain
    done.append("x509")

    bundle = client.fetch_x509_bundles(timeout=20).get_bundle_for_trust_domain(domain)
    assert len(bundle.x509_authorities) == 1, bundle
    done.append("bundles")

    token = client.fetch_jwt_svid({"payments"}, timeout=20)
    assert str(token.spiffe_id) == expected, token.spiffe_id
    valid = client.validate_jwt_svid(token.token, "payments", timeout=20)
    assert str(valid.spiffe_id) == expected, valid.spiffe_id
    try:
        client.validate_jwt_svid(token.token, "inventory", timeout=20)
        raise SystemExit("a token for another audience was valid")
    except Exception as error:
        assert "another audience" in str(error), error
    keys = client.fetch_jwt_bundles(timeout=20).get_bundle_for_trust_domain(domain)
    assert len(keys.jwt_authorities) >= 1, keys
    done.append("jwt")

source = X509Source(socket_path=socket, timeout_in_seconds=20)
first = source.svid.leaf.serial_number
changed = threading.Event()
source.subscribe_for_updates(changed.set)
assert changed.wait(30), "no rotation"
assert source.svid.leaf.serial_number != first
source.close()
done.append("rotation")
print(" ".join(done))
