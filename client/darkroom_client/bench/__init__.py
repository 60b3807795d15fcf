"""`darkroom bench`: measures image servers that speak Darkroom's own API, OpenAI's, or AUTOMATIC1111's.

`apis` what is sent and what comes back; `detect` which API a server speaks; `load` the closed loop; `figures` the
statistics; `report` and `plot` what is shown. Nothing here knows which server is measured.
"""
