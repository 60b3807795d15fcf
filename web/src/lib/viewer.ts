import { signal } from "@preact/signals"

/** The image that the viewer shows: a task and the number of its image. */
export const viewed = signal<{ id: string; index: number } | null>(null)
