import { render } from "preact"
import { App } from "./app"
import "./style.css"

render(<App />, document.getElementById("app")!)

// Pages without TLS, except those of this machine, have no service workers; they work without one while the service does.
if (import.meta.env.PROD) navigator.serviceWorker?.register("sw.js").catch(error => console.warn("No service worker:", error))
