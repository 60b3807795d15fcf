"""Exit with 0 if `GET /health` of the service in this container answers 200, else with 1 and the reason.

Standard library only, as this runs twice a minute.
"""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('PORT') or 8000}/health"

try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(URL, timeout=5).close()
except urllib.error.HTTPError as error:
    sys.exit(error.read(2000).decode(errors="replace"))
except OSError as error:
    sys.exit(f"{URL}: {error}")
