import { effect, signal, type Signal } from "@preact/signals"

/** Read a value of localStorage; `usual` where there is none or it cannot be read. */
export function stored<T>(name: string, usual: T): T {
  try {
    const text = localStorage.getItem(`darkroom.${name}`)
    return text === null ? usual : (JSON.parse(text) as T)
  } catch {
    return usual
  }
}

/** Write a value to localStorage. A browser that has no room for it, or forbids it, goes on without. */
export function store(name: string, value: unknown): void {
  try {
    localStorage.setItem(`darkroom.${name}`, JSON.stringify(value))
  } catch {
    // The studio works without; only reloads forget the value.
  }
}

/** A signal whose value survives reloads. */
export function kept<T>(name: string, usual: T): Signal<T> {
  const made = signal(stored(name, usual))
  effect(() => store(name, made.value))
  return made
}
