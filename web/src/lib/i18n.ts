import { effect } from "@preact/signals"
import { en, type Words } from "./en"
import { kept } from "./stored"
import { zh } from "./zh"

export type Language = "en" | "zh"
const DICTIONARIES: Record<Language, Words> = { en, zh }

function ofBrowser(): Language {
  return navigator.languages.some(name => name.toLowerCase().startsWith("zh")) ? "zh" : "en"
}

export const language = kept<Language>("language", ofBrowser())

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-Hant" : "en"
})

/** A text in the user's language; `{name}` in it is replaced by the values. */
export function t(name: keyof Words, values: Record<string, string | number> = {}): string {
  const text = DICTIONARIES[language.value][name]
  return text.replace(/\{(\w+)\}/g, (whole, word: string) => String(values[word] ?? whole))
}

/** The name of a request field; fields that the dictionaries do not have are written as they are. */
export function fieldName(name: string): string {
  const words: Partial<Record<string, string>> = DICTIONARIES[language.value]
  return words[`field.${name}`] ?? name.replaceAll("_", " ")
}

/** A time of day, or the date of one that is not today's. */
export function when(iso: string | null): string {
  if (iso === null) return ""
  const at = new Date(iso)
  const today = at.toDateString() === new Date().toDateString()
  const style: Intl.DateTimeFormatOptions = today ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" }
  return at.toLocaleString(document.documentElement.lang, style)
}

/** Seconds, for people. */
export function duration(seconds: number): string {
  if (seconds < 10) return t("time.seconds", { n: seconds.toFixed(1) })
  if (seconds < 90) return t("time.seconds", { n: Math.round(seconds) })
  if (seconds < 5400) return t("time.minutes", { n: Math.round(seconds / 60) })
  return t("time.hours", { n: (seconds / 3600).toFixed(1) })
}
