import { useEffect, useState } from "preact/hooks"
import { ask, key } from "../lib/api"

/** Fetch a file of the service. @throws Refused */
export async function fileOf(path: string): Promise<Blob> {
  return (await ask(path)).blob()
}

/**
 * An image of the service. An <img> sends no key, so with a key it is fetched and shown from memory.
 *
 * @param onGone is called where the service does not have it any more.
 */
export function ServerImage(props: { path: string; alt: string; class?: string; onGone?: () => void }) {
  const [fetched, setFetched] = useState<string | null>(null)
  const secret = key.value
  useEffect(() => {
    if (!secret) return
    let made: string | null = null
    let over = false
    fileOf(props.path).then(
      blob => {
        if (over) return
        made = URL.createObjectURL(blob)
        setFetched(made)
      },
      () => props.onGone?.(),
    )
    return () => {
      over = true
      if (made) URL.revokeObjectURL(made)
    }
  }, [props.path, secret])
  const src = secret ? fetched : props.path
  return src ? <img class={props.class} src={src} alt={props.alt} loading="lazy" decoding="async" onError={props.onGone} /> : null
}

/** Save a file of the service on this machine. @throws Refused */
export async function save(path: string, name: string): Promise<void> {
  download(await fileOf(path), name)
}

/** Save a file from memory on this machine. */
export function download(file: Blob, name: string): void {
  const url = URL.createObjectURL(file)
  Object.assign(document.createElement("a"), { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}
