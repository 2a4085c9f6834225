"""Runs the table of frames: python run.py --port N, or python run.py --against nginx.

With --json each row's outcome is a line of JSON.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import table_floods
import table_frames
import table_http
import table_messages
from cases import run

TABLES = [table_frames, table_messages, table_http, table_floods]


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--port', type=int)
    options.add_argument('--against', default='proxy', choices=['proxy', 'pingora', 'nginx'])
    options.add_argument('--only', default='')
    options.add_argument('--json', action='store_true')
    options.add_argument('--width', type=int, default=4)
    options = options.parse_args()
    if options.port:
        return table(options, options.port)
    if options.against != 'nginx':
        sys.exit('--port of the proxy, please')
    from nginx import Nginx
    with Nginx() as nginx:
        return table(options, nginx.port)


def table(options, port):
    rows = [row for one in TABLES for row in one.TABLE if options.only in f'{row.section} {row.name}' and (row.yardstick or options.against != 'nginx')]

    def one(row):
        try:
            return run(row, port, options.against)
        except Exception as error:  # A row that breaks has failed; the others go on.
            return '', f'{type(error).__name__}: {error}', ''

    failed = 0
    with ThreadPoolExecutor(options.width) as pool:
        for row, (how, came, wanted) in zip(rows, pool.map(one, rows)):
            failed += not how
            if options.json:
                print(json.dumps({'section': row.section, 'name': row.name, 'how': how, 'came': came, 'wanted': wanted, 'note': row.note}), flush=True)
            else:
                note = f'; {row.note}' if how == 'differs' else '' if how else f'; wanted: {wanted}'
                print(f'{how or "FAILED":7} {row.section:7} {row.name}: {came}{note}')
    if not options.json:
        print(f'{len(rows) - failed} of {len(rows)} as expected')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
