"""The app of the live tests: one program that is an HTTP server, and a TCP server that speaks first.

HTTP answers what it received. `/status/N` answers N, `/slow/SECONDS` late; `/count` tells how often each path was asked
for.
"""

import collections
import http.server
import json
import socketserver
import sys
import threading
import time

SEEN = collections.Counter()


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self):
        path = self.path
        local = self.connection.getsockname()[0]
        if path == "/count":
            body = json.dumps(SEEN)
        else:
            SEEN[f"{local}{path}"] += 1
            SEEN[path] += 1
            headers = [[name.lower(), value] for name, value in self.headers.items()]
            body = json.dumps({"path": path, "headers": headers, "address": local, "peer": self.client_address[0]})
        parts = path.split("?")[0].split("/")
        status = int(parts[2]) if parts[1] == "status" else 200
        if parts[1] == "slow":
            time.sleep(float(parts[2]))
        if parts[1] == "flaky":  # fails on one address only
            status = 503 if local == parts[2] else 200
        data = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-gone", "1")
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_):
        pass


class First(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello from the server\n")
        self.request.sendall(b"you said: " + self.request.recv(100))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


servers = [http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), App) for port in sys.argv[1].split(",")]
servers += [Server(("0.0.0.0", int(port)), First) for port in sys.argv[2].split(",")]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
