/** The worker that upscales, as the page uses it. */

import type { Keep, Made, Said, Work } from "./messages"

/**
 * Do one piece of work in a worker of its own, which ends with it.
 *
 * @param signal ends the worker at once
 * @throws Error in the worker's words; DOMException "AbortError" after the signal
 */
export function inWorker(work: Keep | Work, onSaid: (said: Said) => void, signal: AbortSignal): Promise<Made | null> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" })
    const over = (): void => {
      worker.terminate()
      signal.removeEventListener("abort", abort)
    }
    const abort = (): void => {
      over()
      reject(signal.reason)
    }
    signal.addEventListener("abort", abort)
    worker.addEventListener("error", event => {
      event.preventDefault()
      over()
      reject(new Error(event.message || "The files of the upscaler are not there."))
    })
    worker.addEventListener("message", ({ data: said }: MessageEvent<Said>) => {
      if (said.kind === "made" || said.kind === "kept") {
        over()
        resolve(said.kind === "made" ? said : null)
      } else if (said.kind === "failed") {
        over()
        reject(new Error(said.message))
      } else onSaid(said)
    })
    worker.postMessage(work)
  })
}
