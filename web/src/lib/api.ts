import { signal } from "@preact/signals"
import { kept } from "./stored"

/** The key of this browser's user; "" where the service needs none. */
export const key = kept("key", "")
/** Whether the service has refused the key, or has asked for one. */
export const keyWanted = signal(false)
/** The key that was refused when the user closed the question for another one; null while none was. */
export const keyDeclined = signal<string | null>(null)
/** Whether the last request was answered. */
export const online = signal(true)

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
  ) {
    super(message)
  }
}

function headers(more?: HeadersInit): Headers {
  const made = new Headers(more)
  if (key.value) made.set("Authorization", `Bearer ${key.value}`)
  return made
}

/**
 * Send a request. Paths are relative, so that the service may stand below a path of a reverse proxy.
 *
 * @throws Refused for every status of 400 and more, and with status 0 where there was no answer.
 */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(path, { ...init, headers: headers(init.headers) })
  } catch (error) {
    if (init.signal?.aborted) throw error
    online.value = false
    throw new Refused(0, String(error instanceof Error ? error.message : error))
  }
  online.value = true
  if (answer.ok) return answer
  if (answer.status === 401) wantKey((init.method ?? "GET") !== "GET")
  throw await refusal(answer)
}

/** Ask the user for a key: for what the user does always, for what the page asks by itself until the user says no. */
function wantKey(byUser: boolean): void {
  if (byUser || keyDeclined.value !== key.value) keyWanted.value = true
}

async function refusal(answer: Response): Promise<Refused> {
  try {
    const said = await answer.json()
    return new Refused(answer.status, said.error?.message ?? said.detail ?? answer.statusText, said.error?.param ?? null)
  } catch {
    return new Refused(answer.status, answer.statusText || String(answer.status))
  }
}

/** Ask for JSON. `body` is sent as JSON, or as a form where it is one. */
export async function json<T>(path: string, body?: unknown, init: RequestInit = {}): Promise<T> {
  const sent: RequestInit = { ...init }
  const made = new Headers({ Accept: "application/json", ...(init.headers as Record<string, string> | undefined) })
  if (body instanceof FormData) sent.body = body
  else if (body !== undefined) {
    sent.body = JSON.stringify(body)
    made.set("Content-Type", "application/json")
  }
  if (body !== undefined) sent.method ??= "POST"
  return (await ask(path, { ...sent, headers: made })).json() as Promise<T>
}

/** Whether trying again later may help: there was no answer, or the service restarts or is full. */
export function passes(error: unknown): boolean {
  return error instanceof Refused && [0, 429, 502, 503, 504].includes(error.status)
}

/** Server-sent events of a path, by fetch: EventSource cannot send a key. Ends with the stream. */
export async function* events(path: string, signal: AbortSignal): AsyncGenerator<{ name: string; data: unknown }> {
  const answer = await ask(path, { headers: { Accept: "text/event-stream" }, signal })
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ""
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    text += value
    const parts = text.split("\n\n")
    text = parts.pop()!
    for (const part of parts) {
      const found = parsed(part)
      if (found) yield found
    }
  }
}

function parsed(part: string): { name: string; data: unknown } | null {
  const lines = part.split("\n")
  const value = (name: string): string | undefined =>
    lines.find(line => line.startsWith(`${name}:`))?.slice(name.length + 1).trimStart()
  const data = value("data")
  return data === undefined ? null : { name: value("event") ?? "message", data: JSON.parse(data) }
}

/** Messages of errors, for people. */
export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
