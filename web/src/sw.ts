/**
 * The service worker: keeps the page and its files, so that the studio opens while the service is away.
 *
 * The page itself is asked for each time, so that a new version shows at once. Files below assets/ have names that change
 * with their content, so what is kept is never asked for again. Nothing else goes through here. A new service worker waits
 * until the pages of the old one are closed, and then deletes the files that its version does not have.
 */

declare const FILES: { first: string[]; all: string[] } // written by vite.config.ts
declare const self: ServiceWorkerGlobalScope & typeof globalThis

/** What a service worker has, as far as it is used here: TypeScript's library for it clashes with that for pages. */
interface ServiceWorkerGlobalScope {
  registration: { scope: string }
  clients: { claim(): Promise<void> }
}
interface Lasting extends Event {
  waitUntil(work: Promise<unknown>): void
}
interface Fetching extends Lasting {
  request: Request
  respondWith(answer: Promise<Response>): void
}

const SCOPE = self.registration.scope
const CACHE = `darkroom-studio ${SCOPE}` // another service may stand below another path of the same host
const ASSETS = `${SCOPE}assets/`
const PATIENCE_MS = 5000 // for which the page waits for a service that says nothing

const pageRequest = (): Request => new Request(SCOPE, { headers: { Accept: "text/html" }, cache: "no-cache" })
const urlOf = (name: string): string => new URL(name, SCOPE).href

addEventListener("install", event => (event as Lasting).waitUntil(install()))
addEventListener("activate", event => (event as Lasting).waitUntil(activate()))
addEventListener("fetch", event => {
  const { request } = event as Fetching
  const url = request.url.split(/[?#]/)[0]!
  if (request.method !== "GET") return
  if (request.mode === "navigate" && url === SCOPE) (event as Fetching).respondWith(page())
  else if (url.startsWith(ASSETS)) (event as Fetching).respondWith(asset(request))
})

async function install(): Promise<void> {
  const cache = await caches.open(CACHE)
  await cache.addAll(FILES.first.map(urlOf))
  await keepPage(await fetch(pageRequest()))
}

async function activate(): Promise<void> {
  const cache = await caches.open(CACHE)
  const known = new Set([SCOPE, ...FILES.all.map(urlOf)])
  for (const request of await cache.keys()) if (!known.has(request.url)) await cache.delete(request)
  await self.clients.claim()
}

async function keepPage(answer: Response): Promise<void> {
  if (answer.ok) await (await caches.open(CACHE)).put(SCOPE, answer)
}

/** The page of the service; the kept one where it does not answer, or a proxy before it says that it is away. */
async function page(): Promise<Response> {
  try {
    const answer = await fetch(pageRequest(), { signal: AbortSignal.timeout(PATIENCE_MS) })
    if (answer.status < 500) {
      await keepPage(answer.clone())
      return answer
    }
  } catch {
    // The kept page follows.
  }
  return (await (await caches.open(CACHE)).match(SCOPE, { ignoreVary: true })) ?? Response.error()
}

async function asset(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE)
  const known = await cache.match(request.url, { ignoreVary: true })
  if (known) return known
  const answer = await fetch(request)
  if (answer.ok) await cache.put(request.url, answer.clone()).catch(() => undefined) // no room: asked for again
  return answer
}

export {}
