/** The engines of the server and their options, for the lists in the panel. */
import type {
	ILoadOptionsFunctions,
	INodeListSearchResult,
	INodePropertyOptions,
} from 'n8n-workflow';

import { sendJson } from '../api/client';
import { byCredential } from '../api/server';
import type { OptionSchema, ServerInfo } from '../api/types';
import { locatorValue } from '../resources/video/jobId';

/** The engine options that have their own field in the panel, so the list leaves them out. */
const OWN_FIELDS = ['seed', 'face_index', 'face_box', 'preset', 'resolution'];

/** The drop-down list of version 1. */
export async function getEngines(this: ILoadOptionsFunctions): Promise<INodePropertyOptions[]> {
	return choices(await readInfo(this));
}

/** The searchable list of version 2. */
export async function searchEngines(
	this: ILoadOptionsFunctions,
	filter = '',
): Promise<INodeListSearchResult> {
	const wanted = filter.toLowerCase();
	const all = choices(await readInfo(this));
	return {
		results: all
			.filter(({ name, value }) => `${name} ${String(value)}`.toLowerCase().includes(wanted))
			.map(({ name, value, description }) => ({ name, value: String(value), description })),
	};
}

/** The options of the chosen engine, with the server's own descriptions. */
export async function getEngineOptions(
	this: ILoadOptionsFunctions,
): Promise<INodePropertyOptions[]> {
	const info = await readInfo(this);
	const chosen = locatorValue(this.getCurrentNodeParameter('engine'));
	const name = chosen === '' || chosen === 'auto' ? info.default : chosen;
	const engine = info.engines.find((each) => each.name === name);
	const options = Object.entries(engine?.options_schema?.properties ?? {});
	return options
		.filter(([option]) => !OWN_FIELDS.includes(option))
		.map(([option, schema]) => ({
			name: option,
			value: option,
			description: describe(schema),
		}));
}

async function readInfo(context: ILoadOptionsFunctions): Promise<ServerInfo> {
	return await sendJson<ServerInfo>(byCredential(context), { method: 'GET', path: '/v1/engines' });
}

function choices(info: ServerInfo): INodePropertyOptions[] {
	return [
		{ name: 'Auto', value: 'auto', description: `The default of the server, now ${info.default}` },
		...info.engines.map(({ name, title, available, reason }) => ({
			name: available ? title : `${title} (Not Available)`,
			value: name,
			description: available ? undefined : reason,
		})),
	];
}

function describe(schema: OptionSchema): string {
	const range =
		schema.minimum !== undefined && schema.maximum !== undefined
			? ` ${schema.minimum} to ${schema.maximum}.`
			: '';
	const words = schema.enum === undefined ? '' : ` One of: ${schema.enum.join(', ')}.`;
	const normal =
		schema.default === undefined || schema.default === null
			? ''
			: ` Default: ${JSON.stringify(schema.default)}.`;
	return `${schema.description ?? ''}${range}${words}${normal}`.trim();
}
