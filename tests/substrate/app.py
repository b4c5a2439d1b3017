"""The program of the test pods: an HTTP server that answers who it is and who asked.

Run as `python -c SOURCE PORT`; `/fail` makes `/ready` fail until `/heal`, `/crash` ends it with exit code 7.
"""

SOURCE = r"""
import http.server, json, os, signal, sys, threading
state = {"healthy": True}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status = 200
        if self.path == "/ready":
            status = 200 if state["healthy"] else 503
        elif self.path in ("/fail", "/heal"):
            state["healthy"] = self.path == "/heal"
        elif self.path == "/crash":
            os._exit(7)
        body = json.dumps({
            "pod": os.environ.get("HOSTNAME"), "peer": self.client_address[0], "uid": os.getuid(),
            "path": self.path, "env": dict(os.environ),
        }).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def ended(*_):
    print("SIGTERM", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, ended)
print("listening", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
