import type {
	Icon,
	ICredentialDataDecryptedObject,
	ICredentialTestRequest,
	ICredentialType,
	IHttpRequestOptions,
	INodeProperties,
} from 'n8n-workflow';

/**
 * Where a Lipsync server is and how to be let in. Every request of the node gets its address, token, proxy header and
 * certificate policy here, so that nothing else needs to know them.
 */
export class LipsyncApi implements ICredentialType {
	name = 'lipsyncApi';

	displayName = 'Lipsync API';

	icon: Icon = { light: 'file:../icons/lipsync.svg', dark: 'file:../icons/lipsync.dark.svg' };

	documentationUrl = 'https://github.com/n8n-nodes-lipsync/lipsync/tree/main/n8n-node#credentials';

	properties: INodeProperties[] = [
		{
			displayName: 'Base URL',
			name: 'baseUrl',
			type: 'string',
			required: true,
			default: '',
			placeholder: 'e.g. https://gpu.example.com',
			description:
				'Address of the Lipsync server, with its path prefix if it stands behind one (Jupyter proxy: https://host/proxy/5000). Quick tunnels get a new address at every start.',
		},
		{
			displayName: 'API Token',
			name: 'token',
			type: 'string',
			typeOptions: { password: true },
			default: '',
			description:
				'One of the tokens in LIPSYNC_TOKENS on the server. A server that has none prints the one it made at its first start.',
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
			description:
				'Extra headers, as a JSON object, for a proxy in front of the server (Cloudflare Access, Jupyter). Leave empty without one.',
		},
	];

	async authenticate(
		credentials: ICredentialDataDecryptedObject,
		requestOptions: IHttpRequestOptions,
	): Promise<IHttpRequestOptions> {
		const token = String(credentials.token ?? '').trim();
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

	test: ICredentialTestRequest = {
		request: {
			baseURL: '={{$credentials.baseUrl}}',
			url: '/v1/me',
			method: 'GET',
			timeout: 30_000,
		},
		rules: [
			{
				type: 'responseCode',
				properties: {
					value: 401,
					message:
						'The server does not accept this token. Compare it with LIPSYNC_TOKENS on the server.',
				},
			},
			{
				type: 'responseCode',
				properties: {
					value: 404,
					message:
						'There is no Lipsync server at this Base URL. Check the address and its path prefix.',
				},
			},
		],
	};
}

/** The Base URL without trailing slashes; throws a sentence to act on when it is no address. */
export function serverAddress(value: unknown): string {
	const text = String(value ?? '').trim();
	if (!/^https?:\/\/[^/\s?#]/i.test(text) || /[\s?#]/.test(text)) {
		throw new TypeError(
			`The Base URL of the Lipsync credential is ${JSON.stringify(text)}. Write it with http:// or https:// and without a query, like https://gpu.example.com.`,
		);
	}
	return text.replace(/\/+$/, '');
}

/** The extra headers as an object; an empty field is none. */
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
