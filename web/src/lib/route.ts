import { signal } from "@preact/signals"

export const PAGES = ["create", "gallery", "upscale", "edit", "train", "status"] as const
export type Page = (typeof PAGES)[number]

function current(): Page {
  const name = location.hash.replace(/^#\/?/, "")
  return PAGES.find(page => page === name) ?? "create"
}

/** The page that is shown. It stands behind the # of the address, which the server never sees. */
export const page = signal<Page>(current())
addEventListener("hashchange", () => (page.value = current()))

export function go(name: Page): void {
  location.hash = `/${name}`
  page.value = name
}
