import type { ComponentChildren } from "preact"
import { useId } from "preact/hooks"
import { fieldName, t } from "../lib/i18n"
import { typeOf } from "../lib/models"
import type { Field } from "../lib/types"

interface Of {
  name: string
  field: Field
  value: string
  onChange: (value: string) => void
  label?: string
}

/** A control for one field of a request: a number, a choice, or a switch. Empty means the model's default. */
export function FieldControl(props: Of) {
  const kind = typeOf(props.field)
  if (props.field.enum) return <Choice {...props} />
  return kind === "boolean" ? <Switch {...props} /> : <NumberInput {...props} />
}

export function NumberInput({ name, field, value, onChange, label }: Of) {
  const step = field.multipleOf ?? (typeOf(field) === "integer" ? 1 : "any")
  const usual = field.default == null ? t("create.default") : String(field.default)
  return (
    <label class="field">
      <span>{label ?? fieldName(name)}</span>
      <input
        type="number"
        name={name}
        title={field.description}
        min={field.minimum}
        max={field.maximum}
        step={step}
        value={value}
        placeholder={usual}
        onInput={event => onChange(event.currentTarget.value)}
      />
    </label>
  )
}

function Choice({ name, field, value, onChange, label }: Of) {
  const words = field.enum!.filter((word): word is string => word !== null)
  const usual = typeof field.default === "string" ? field.default : t("create.default")
  return (
    <label class="field">
      <span>{label ?? fieldName(name)}</span>
      <select name={name} title={field.description} value={value} onChange={event => onChange(event.currentTarget.value)}>
        <option value="">{usual}</option>
        {words.filter(word => word !== usual).map(word => <option key={word} value={word}>{word}</option>)}
      </select>
    </label>
  )
}

function Switch({ name, field, value, onChange, label }: Of) {
  const on = value === "" ? field.default === true : value === "true"
  return (
    <label class="switch" title={field.description}>
      <input type="checkbox" name={name} checked={on} onChange={event => onChange(String(event.currentTarget.checked))} />
      <span>{label ?? fieldName(name)}</span>
    </label>
  )
}

/** A slider with its number beside it. */
export function Slider(props: {
  label: string
  name?: string
  value: number
  min: number
  max: number
  step: number
  onChange: (value: number) => void
}) {
  const id = useId()
  const set = (event: { currentTarget: HTMLInputElement }): void => {
    const value = Number(event.currentTarget.value)
    if (event.currentTarget.value !== "" && Number.isFinite(value)) props.onChange(value)
  }
  const shared = { min: props.min, max: props.max, step: props.step, value: props.value, onInput: set }
  return (
    <div class="slider">
      <label for={id}>{props.label}</label>
      <input id={id} name={props.name} type="range" {...shared} />
      <input type="number" aria-label={props.label} {...shared} />
    </div>
  )
}

/** What went wrong; read aloud when it appears. */
export function Problem({ text }: { text: string }) {
  return (
    <p class="problem" role="alert">
      {text}
    </p>
  )
}

export function Section(props: { title: string; open?: boolean; badge?: string | false; children: ComponentChildren }) {
  return (
    <details class="section" open={props.open}>
      <summary>
        {props.title}
        {props.badge ? <span class="badge">{props.badge}</span> : null}
      </summary>
      <div class="section-body">{props.children}</div>
    </details>
  )
}
