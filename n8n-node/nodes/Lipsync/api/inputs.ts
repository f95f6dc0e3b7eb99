/**
 * Finds the picture and the recording of an item. If one is missing, the error lists the files that the item has.
 *
 * A binary is n8n's record of a file. A field may name a binary of the item, or hold a binary of another node (by an
 * expression). If the field is empty, the item's only file of the right kind is used. Does not read the files.
 */
import {
	NodeOperationError,
	type IBinaryData,
	type IExecuteFunctions,
	type INodeExecutionData,
} from 'n8n-workflow';

export interface WantedInput {
	/** The name of the server's form field: `image`. */
	name: string;
	/** The word for the input in a sentence: "picture". */
	noun: string;
	/** The label of the field in the panel that names the file: "Image Field". */
	label: string;
	/** Prefixes of the MIME types that fit, the best first. */
	kinds: string[];
}

export const PICTURE: WantedInput = {
	name: 'image',
	noun: 'picture',
	label: 'Image Field',
	kinds: ['image/', 'video/'],
};
export const RECORDING: WantedInput = {
	name: 'audio',
	noun: 'recording',
	label: 'Audio Field',
	kinds: ['audio/', 'application/ogg', 'video/'],
};
export const SECOND_RECORDING: WantedInput = {
	...RECORDING,
	name: 'second_audio',
	noun: 'second recording',
	label: 'Second Recording Field',
};

/** The binary for item `itemIndex`. `field` is a binary's name, a binary, or "" for the only file that fits. */
export function findInput(
	context: IExecuteFunctions,
	itemIndex: number,
	field: unknown,
	wanted: WantedInput,
): { binary: IBinaryData; from: string | IBinaryData } {
	if (isBinary(field)) return { binary: field, from: field };
	const present = binariesOf(context.getInputData()[itemIndex]);
	const name = typeof field === 'string' ? field.trim() : '';
	if (name === '' && (field === undefined || field === null || field === '')) {
		const found = byKind(present, wanted);
		if (typeof found === 'string') {
			return { binary: context.helpers.assertBinaryData(itemIndex, found), from: found };
		}
		throw notFound(context, itemIndex, wanted, present, found);
	}
	if (name === '' || !(name in present || name.includes('.'))) {
		throw notFound(context, itemIndex, wanted, present, name === '' ? String(field) : name);
	}
	return { binary: context.helpers.assertBinaryData(itemIndex, name), from: name };
}

/** The name of the file that fits; several names if the choice is not clear. */
function byKind(
	present: Record<string, IBinaryData>,
	{ name, kinds }: WantedInput,
): string | string[] {
	for (const kind of kinds) {
		const fitting = Object.keys(present).filter((each) => present[each].mimeType.startsWith(kind));
		if (fitting.length === 1) return fitting[0];
		if (fitting.includes(name)) return name;
		if (fitting.length > 1) return fitting;
	}
	return [];
}

function notFound(
	context: IExecuteFunctions,
	itemIndex: number,
	{ noun, label }: WantedInput,
	present: Record<string, IBinaryData>,
	tried: string | string[],
): NodeOperationError {
	const fields = Object.entries(present).map(([name, { mimeType }]) => `${name} (${mimeType})`);
	const there = fields.length > 0 ? `It has: ${fields.join(', ')}` : 'It has no files at all';
	const message =
		typeof tried === 'string'
			? `There is no ${noun} in the field '${tried}' of the item. ${there}`
			: tried.length > 0
				? `The item has ${tried.length} files that may be the ${noun}: ${tried.join(', ')}`
				: `The item has no ${noun}. ${there}`;
	const another = `{{ $('Name of that node').item.binary.data }}`;
	return new NodeOperationError(context.getNode(), `${message} [item ${itemIndex}]`, {
		description: `Write the name of the field with the ${noun} into ${label}. If another node than the one before has the ${noun}, write this expression there: ${another}`,
		itemIndex,
	});
}

/** The files of an item by the names of their fields. Workflows with combined binaries have them in the JSON. */
function binariesOf(item: INodeExecutionData): Record<string, IBinaryData> {
	const inJson = Object.entries(item.json ?? {}).filter(([, value]) => isBinary(value));
	return {
		...(Object.fromEntries(inJson) as unknown as Record<string, IBinaryData>),
		...item.binary,
	};
}

function isBinary(value: unknown): value is IBinaryData {
	if (typeof value !== 'object' || value === null) return false;
	const { mimeType, data, id } = value as Partial<IBinaryData>;
	return typeof mimeType === 'string' && (typeof data === 'string' || typeof id === 'string');
}
