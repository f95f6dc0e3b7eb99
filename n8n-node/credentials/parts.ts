/** The parts that both credentials share. */
import type { Icon } from 'n8n-workflow';

export const ICON: Icon = {
	light: 'file:../icons/lipsync.svg',
	dark: 'file:../icons/lipsync.dark.svg',
};

/** The text of a credential's field, without blanks around it; "" for an empty field. */
export function textOf(value: unknown): string {
	return String(value ?? '').trim();
}

export function withoutTrailingSlashes(address: string): string {
	return address.replace(/\/+$/, '');
}
