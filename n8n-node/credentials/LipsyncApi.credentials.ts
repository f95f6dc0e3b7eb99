import type {
	ICredentialDataDecryptedObject,
	ICredentialType,
	IHttpRequestOptions,
	INodeProperties,
} from 'n8n-workflow';

import { ICON, textOf, withoutTrailingSlashes } from './parts';

/**
 * The address of a Lipsync server, and the token for it. Every request gets its address, token, proxy headers and
 * certificate policy here. The Test button runs the node's `testServer`: only a function can show the server's own
 * error message.
 */
export class LipsyncApi implements ICredentialType {
	name = 'lipsyncApi';

	displayName = 'Lipsync API';

	icon = ICON;

	documentationUrl = 'https://github.com/n8n-nodes-lipsync/lipsync/tree/main/n8n-node#credentials';

	properties: INodeProperties[] = [
		{
			displayName:
				'Start a server with <code>lipsync serve</code>; it prints its address and its token. If n8n runs in Docker, <code>localhost</code> is n8n’s own container: write <code>http://host.docker.internal:5000</code> instead.',
			name: 'notice',
			type: 'notice',
			default: '',
		},
		{
			displayName: 'Base URL',
			name: 'baseUrl',
			type: 'string',
			required: true,
			default: '',
			placeholder: 'e.g. https://gpu.example.com',
			hint: 'The address that the server prints',
			description:
				'Address of the Lipsync server, with its path prefix if it stands behind one (Jupyter proxy: https://host/proxy/5000). Quick tunnels get a new address at every start.',
		},
		{
			displayName: 'API Token',
			name: 'token',
			type: 'string',
			typeOptions: { password: true },
			default: '',
			hint: 'The token that the server prints when it starts, or one of its LIPSYNC_TOKENS',
			description: 'Only a server that listens on its own machine alone works without a token',
		},
		{
			displayName: 'Ignore SSL Issues (Insecure)',
			name: 'ignoreSslIssues',
			type: 'boolean',
			default: false,
			description: 'Whether to connect even if the server has a self-signed certificate',
		},
		{
			displayName: 'Proxy Headers',
			name: 'proxyHeadersSecret',
			type: 'string',
			typeOptions: { password: true },
			default: '',
			placeholder: 'e.g. {"CF-Access-Client-Id": "…", "CF-Access-Client-Secret": "…"}',
			hint: 'Leave empty, unless a proxy in front of the server asks for headers',
			description:
				'Extra headers as a JSON object, for a proxy such as Cloudflare Access or Jupyter',
		},
	];

	async authenticate(
		credentials: ICredentialDataDecryptedObject,
		requestOptions: IHttpRequestOptions,
	): Promise<IHttpRequestOptions> {
		const token = textOf(credentials.token);
		return {
			...requestOptions,
			baseURL: serverAddress(credentials.baseUrl),
			headers: {
				...requestOptions.headers,
				...proxyHeaders(credentials.proxyHeadersSecret),
				...(token ? { Authorization: `Bearer ${token}` } : {}),
			},
			skipSslCertificateValidation: credentials.ignoreSslIssues === true,
		};
	}
}

/** `value` without trailing slashes. Throws a TypeError that says how to write an address if `value` is none. */
export function serverAddress(
	value: unknown,
	field = 'The Base URL of the Lipsync credential',
): string {
	const text = textOf(value);
	if (!/^https?:\/\/[^/\s?#]/i.test(text) || /[\s?#]/.test(text)) {
		throw new TypeError(
			`${field} is ${JSON.stringify(text)}. Write it with http:// or https:// and without a query, like https://gpu.example.com.`,
		);
	}
	return withoutTrailingSlashes(text);
}

/** The extra headers as an object; an empty field gives no headers. */
export function proxyHeaders(value: unknown): Record<string, string> {
	const headers: Record<string, string> = {};
	for (const [name, content] of Object.entries(jsonObject(value))) {
		headers[name] = String(content);
	}
	return headers;
}

function jsonObject(value: unknown): object {
	let parsed: unknown = value ?? {};
	if (typeof value === 'string') {
		try {
			parsed = JSON.parse(value.trim() || '{}');
		} catch {
			parsed = null;
		}
	}
	if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
		throw new TypeError(
			'Proxy Headers of the Lipsync credential is not a JSON object. Write it like {"Header-Name": "value"}.',
		);
	}
	return parsed;
}
