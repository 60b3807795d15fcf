"""A page for trying the service out, made with Gradio: `darkroom playground`.

It asks the service by `AsyncClient` alone, so it runs beside any service, on this machine or another one.
"""
