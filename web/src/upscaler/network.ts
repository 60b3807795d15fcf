/** The files of networks: fetched once, and kept by the browser. */

export interface Network {
  name: string
  family: string
  scale: number
  title: string
  /** Longest sides of tiles in pixels: as the server has it, and what a CPU does in a second or two. */
  tile: number
  tile_cpu: number
  bytes: number
  sha256: string
  url: string
}

const CACHE = "darkroom-networks"

/** Pages without TLS, except those of this machine, have no Cache API; their browser's usual cache has to do. */
const store = (): Promise<Cache> | null => ("caches" in globalThis ? caches.open(CACHE) : null)

/**
 * The bytes of a network, from the browser or else from the service.
 *
 * @param url of the file, absolute
 * @param onBytes is told how many bytes have come
 * @throws Error where neither has it
 */
export async function networkBytes(
  network: Network,
  url: string,
  key: string,
  onBytes: (count: number) => void,
): Promise<Uint8Array> {
  const cache = await store()
  const known = await cache?.match(url, { ignoreVary: true })
  if (known) return new Uint8Array(await known.arrayBuffer())
  const answer = await fetch(url, { headers: key ? { Authorization: `Bearer ${key}` } : {} })
  if (!answer.ok) throw new Error(`${network.name}: ${answer.status} ${answer.statusText}`)
  const bytes = await received(answer, network.bytes, onBytes)
  if (bytes.length !== network.bytes) throw new Error(`${network.name}: ${bytes.length} of ${network.bytes} bytes came.`)
  const type = { "Content-Type": "application/octet-stream" }
  await cache?.put(url, new Response(new Blob([bytes]), { headers: type })).catch(() => undefined) // no room: fetched again
  return bytes
}

async function received(answer: Response, size: number, onBytes: (count: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(size)
  const reader = answer.body!.getReader()
  let count = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return bytes.subarray(0, count)
    if (count + value.length > size) throw new Error(`More than the ${size} bytes of the network came.`)
    bytes.set(value, count)
    count += value.length
    onBytes(count)
  }
}

/** Which of these networks this browser keeps. */
export async function keptOf(networks: Network[]): Promise<string[]> {
  const cache = await store()
  if (!cache) return []
  const urls = (await cache.keys()).map(request => request.url)
  return networks.filter(one => urls.includes(new URL(one.url, document.baseURI).href)).map(one => one.name)
}

/** Remove the files of networks that the service does not have any more. */
export async function forgetOthers(networks: Network[]): Promise<void> {
  const cache = await store()
  const known = networks.map(one => new URL(one.url, document.baseURI).href)
  const ours = new URL("upscale/networks/", document.baseURI).href
  for (const { url } of (await cache?.keys()) ?? []) if (url.startsWith(ours) && !known.includes(url)) await cache?.delete(url)
}
