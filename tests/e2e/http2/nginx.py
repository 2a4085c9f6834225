"""nginx with HTTP/2 without TLS in front of apps/frames.js: the yardstick of the table."""

import os
import shutil
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CONF = '''
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log; worker_rlimit_nofile 4096;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3; uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  client_header_timeout 2s; client_body_timeout 2s;
  server {{
    listen 127.0.0.1:{port} http2;
    location / {{ proxy_pass http://127.0.0.1:{app}; proxy_http_version 1.1; proxy_request_buffering off; }}
  }}
}}
'''


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f'nobody listens on {port}')


class Nginx:
    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='pup-nginx-')
        self.port, app = free_port(), free_port()
        conf = os.path.join(self.dir, 'nginx.conf')
        with open(conf, 'w') as out:
            out.write(CONF.format(dir=self.dir, port=self.port, app=app))
        quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        self.processes = [
            subprocess.Popen(['node', os.path.join(HERE, '../apps/frames.js')], env={**os.environ, 'PORT': str(app)}, **quiet),
            subprocess.Popen(['nginx', '-p', self.dir, '-c', conf], **quiet),
        ]
        wait_for(app)
        wait_for(self.port)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
            process.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
