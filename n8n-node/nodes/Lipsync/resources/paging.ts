/** The two fields of every Get Many: all results, or up to a limit. */
import type { IExecuteFunctions, INodeProperties } from 'n8n-workflow';

import { numberBetween } from '../items';

const LARGEST_LIMIT = 1_000_000;

export const pagingFields: INodeProperties[] = [
	{
		displayName: 'Return All',
		name: 'returnAll',
		type: 'boolean',
		default: false,
		description: 'Whether to return all results or only up to a given limit',
	},
	{
		displayName: 'Limit',
		name: 'limit',
		type: 'number',
		typeOptions: { minValue: 1 },
		default: 50,
		description: 'Max number of results to return',
		displayOptions: { show: { returnAll: [false] } },
	},
];

/** The largest number of results that item `i` asks for; Infinity for all. */
export function readLimit(context: IExecuteFunctions, i: number): number {
	if (context.getNodeParameter('returnAll', i, false) as boolean) return Number.POSITIVE_INFINITY;
	const limit = context.getNodeParameter('limit', i, 50);
	return numberBetween(context, 'Limit', limit, [1, LARGEST_LIMIT], i);
}
